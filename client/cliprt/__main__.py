"""``python -m cliprt`` is the ``cliprt`` command."""

from cliprt._cli import main

main(prog_name="cliprt")
