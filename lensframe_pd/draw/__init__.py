"""Frame to picture: `node`, `style`, `dot` (text), `render` (files), `page` (HTML), `draw`."""
