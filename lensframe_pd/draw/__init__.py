"""Frame to picture: `dot` (the graph as text), `node`, `style`, and `render` (text to files)."""
