"""The one exception that means: the user's input is wrong, and here is what to do about it."""


class UserError(Exception):
    """Bad input. Tools print it as one screen, without a traceback, and exit with status 2.

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
