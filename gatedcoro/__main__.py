"""`python -m gatedcoro`: what the limit costs on this machine, LangChain's algorithm and gatedcoro side by side."""

import sys

from gatedcoro._demo import main

if __name__ == "__main__":
    sys.exit(main())
