"""`python -m feastrain` is `feastrain`."""

from feastrain.cli import main

if __name__ == "__main__":
    main()
