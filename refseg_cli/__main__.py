"""`python -m refseg_cli`, the same as `refseg`."""

from refseg_cli.app import run

if __name__ == "__main__":
    run()
