"""Data that do not fit into memory: read in blocks, shuffled within windows.

source   what every kind of file says of itself, and errors that name a place in it
arrays   .npy, Zarr, HDF5, Dask arrays, and anything that has a shape and slices
tables   Parquet, and Dask's data frames
opening  which of them something is
scan     one pass: finiteness, means and deviations, classes
ahead    the next item is made by a thread while one is used
stream   Stream: what `stream` returns; its order
feed     the windows of a stream as a training takes them
judge    loss and score by blocks
answers  predictions by blocks
"""

from .opening import stream
from .streamed import Stream

__all__ = ["Stream", "stream"]
