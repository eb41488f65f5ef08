"""`python -m gatedcoro.langchain [-m] script.py args...`: run a program with LangChain's helpers replaced."""

from gatedcoro.langchain._program import main

# The script takes over this module's namespace, so nothing may follow this line.
main()
