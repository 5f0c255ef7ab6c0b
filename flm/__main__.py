"""`python -m flm` is `flm`, so that a launcher can start it: `accelerate launch -m flm evaluate …`."""

from flm.cli import main

if __name__ == "__main__":
    main()
