"""The errors that the command line turns into one sentence and an exit status."""


class UserError(Exception):
  """Something that the user gave cannot be used. The message is one sentence that names the thing and the way out."""


class Stopped(Exception):
  """Work was stopped by a signal. The message says what is saved; `code`, 128 + the signal, is the exit status."""

  def __init__(self, message: str, signum: int):
    super().__init__(message)
    self.code = 128 + signum
