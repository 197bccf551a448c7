"""Errors: one class per mistake.

Every class has two parents: `MirageError`, so that one `except` catches all of ours, and the built-in that a caller
would expect. Every message says what came, what is allowed and what to do.
"""


class MirageError(Exception):
    """Base class of every error this project raises on purpose."""


class InvalidImageError(MirageError, ValueError):
    """An image has the wrong size, channels, type or range."""


class InvalidDepthError(MirageError, ValueError):
    """A depth map has the wrong size, or holds NaN or non-positive values."""


class InvalidPointsError(MirageError, ValueError):
    """Points or their colours have the wrong shape or type, or a cloud a layout that cannot be read."""


class InvalidPoseError(MirageError, ValueError):
    """A matrix is no rigid motion, or a quaternion is not of unit length."""


class InvalidCameraError(MirageError, ValueError):
    """Intrinsics or image sizes that no pinhole camera has."""


class InvalidActionError(MirageError, ValueError):
    """An action lies outside the action space or is not finite."""


class InvalidOptionError(MirageError, ValueError):
    """An option of `reset`, of a command or of a configuration is unknown or out of range."""


class UnsafeFileError(MirageError, OSError):
    """A file that is a link, pipe, socket or device, larger than its kind may be, or outside the folder it is in."""


class UnknownArgumentError(InvalidOptionError, TypeError):
    """A constructor got an argument that it does not have."""


class ModelNotFoundError(MirageError, FileNotFoundError):
    """No world model of that name, in that folder or under that hub id."""


class WeightsError(MirageError, RuntimeError):
    """A weight file is truncated, or its keys or shapes are not those of the network."""


class StoreError(MirageError):
    """A cache on disk cannot be used; the subclasses say why."""


class CacheNotFoundError(StoreError, FileNotFoundError):
    """There is no cache at that place."""


class CacheExistsError(StoreError, FileExistsError):
    """A cache would overwrite another one."""


class CacheBusyError(StoreError, BlockingIOError):
    """Another writer has the cache open."""


class CacheCorruptError(StoreError, ValueError):
    """A cache has arrays of the wrong shape or type, non-finite values, or a missing part."""


class CacheVersionError(StoreError, ValueError):
    """A cache was written by a newer version of the format."""


class CacheModelError(StoreError, ValueError):
    """A cache was written by another world model."""


class MissingPackageError(MirageError, ImportError):
    """A package that only some features need is not installed, or something else has its name."""


class EpisodeError(MirageError, ValueError):
    """A recorded episode is damaged, of another version, or not what was asked for."""


class EpisodeNotFoundError(EpisodeError, FileNotFoundError):
    """There is no recorded episode at that place."""


class DatasetError(MirageError, ValueError):
    """A training data set is missing, damaged, of another version, or does not fit the model."""


class ClipError(MirageError, ValueError):
    """A clip of a data set cannot be used: its pose list or video is missing or damaged, or the two do not match."""


class RolloutError(MirageError, ValueError):
    """Rollouts cannot go on where they are, or another run writes there."""


class BagError(MirageError):
    """A rosbag2 file cannot be used; the subclasses say why."""


class BagNotFoundError(BagError, FileNotFoundError):
    """There is no bag at that place, or what it should hold is not there."""


class BagExistsError(BagError, FileExistsError):
    """A bag would overwrite something."""


class BagContentError(BagError, ValueError):
    """A bag is damaged, lacks the topic that was asked for, or has several that could be meant."""


class WorldFailedError(MirageError, RuntimeError):
    """A world that plays could not go on, or is not running; the cause says why."""


class PolicyError(MirageError, ValueError):
    """A saved policy is damaged, or does not fit the spaces of an environment."""


class ConformanceError(MirageError, AssertionError):
    """An environment breaks a promise that `check_world_env` tests; the message begins with the promise's name."""


class ServingError(MirageError, RuntimeError):
    """A world server cannot be reached, or refuses what it is asked for."""


class WorldNotFoundError(ServingError, LookupError):
    """There is no world or moment of that name on the server, or it belongs to somebody else."""


class ReplicaLostError(ServingError):
    """The process or machine that held a world died while it worked on a request; its worlds go on elsewhere."""


class ServerStoppingError(ServingError):
    """A world server ends and takes no more requests; its worlds are kept."""


class QuotaError(ServingError):
    """More worlds, bytes or steps per second than a token may have; wait, or close some."""
