"""lensframe_pd: every operation of a PyTorch model as a DataFrame, every activation in xarray."""
from lensframe_pd.trace import Trace, trace
__all__ = ["Trace", "trace"]
