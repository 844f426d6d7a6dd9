"""`python -m videomar.cli`, as the Makefile calls it: the environment's script may not be on the path."""

from videomar.cli.app import main

main()
