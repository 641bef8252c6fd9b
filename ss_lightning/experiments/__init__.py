"""Questions of the paper that one training does not answer; each module is a command of its own."""

__all__: list[str] = []
