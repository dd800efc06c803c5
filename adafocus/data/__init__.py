"""From a data set's source to clips: videos, frames, annotations, splits, clips."""


class DataError(ValueError):
    """Data that cannot be used; the message is one line that names the file and what to do."""
