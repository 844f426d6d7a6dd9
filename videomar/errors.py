"""Errors whose message is written for the user: `<where>: got <value>, expected <rule>; <what to do>`."""


class VideomarError(Exception):
    """A problem that the user can fix. Shown as one line, never as a traceback."""


class ParamsError(VideomarError, ValueError):
    """params.yaml holds an unknown key, a wrong type or an impossible value."""


class OldLayoutError(ParamsError):
    """params.yaml has keys at their old places; `videomar migrate` moves them."""


class DataError(VideomarError):
    """A file or folder given to the pipeline is missing, empty or invalid."""


class CheckpointError(VideomarError):
    """A checkpoint is missing, damaged, or was made with other parameters."""
