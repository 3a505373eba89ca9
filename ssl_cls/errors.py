"""Exceptions that a person is meant to read: the input is wrong, or the run has failed; and what to do about it."""


class ToldError(Exception):
    """Tools print it as one screen, without a traceback.

    Args:
        what: one sentence, what is wrong.
        where: the file, line, key or path that is wrong ("recipes/x.yaml:7: optim.lr"); "" when it is the whole.
        fix: what to do, as a sentence or a command.
    """

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        return "\n".join(
            part
            for part in (self.what, self.where and f"  where: {self.where}", self.fix and f"  do:    {self.fix}")
            if part
        )


class UserError(ToldError):
    """Bad input; tools exit with status 2."""


class NoImagesError(UserError):
    """The data are in order and have no images in the split asked for, which not every use of them needs."""


class RunError(ToldError, RuntimeError):
    """The input was right and the run has failed: a full disk, a dead rank, a loss that is no number. Status 1."""
