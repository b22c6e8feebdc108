"""Everything that danqing raises for a user's mistake.

    DanqingError
    |- RequestError      a request that cannot be painted: size, steps, prompt, seed, ...
    |- ModelError        a model that cannot be found, or whose folder or configuration is wrong
    |  `- WeightsError   a tensor or a weights file that is missing, misshapen or damaged
    |- AdapterError      an adapter file that is damaged, not understood, or for another model
    |- DataError         training data that cannot be used
    |- TrainingError     a training that cannot start, be resumed or go on
    |- RecipeError       a picture without a recipe, or with one that this model cannot follow
    `- OutputError       a place where the picture cannot be written

Each message is one line with the value, the limit and the remedy. Mistakes of the program itself
are assertions.
"""


class DanqingError(ValueError):
    """The root of the tree: catch this one to catch all."""


class RequestError(DanqingError):
    """A request that cannot be painted."""


class ModelError(DanqingError):
    """A model that cannot be found or opened."""


class WeightsError(ModelError):
    """A weights file that does not fit the network or is damaged."""


class AdapterError(DanqingError):
    """An adapter that cannot be read, applied or written."""


class DataError(DanqingError):
    """Training data that cannot be used."""


class TrainingError(DanqingError):
    """A training that cannot start, be resumed or go on."""


class RecipeError(DanqingError):
    """A picture whose recipe is missing or belongs to another model."""


class OutputError(DanqingError):
    """A place where results cannot be written."""
