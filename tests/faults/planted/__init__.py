"""The checker checked: 35 bugs, each planted into the services, each of which must be caught.

A bug is a patch of the classes, functions and SQL texts in this process (`in_*.py`), and exists
only here. What catches it are effects alone: what the checker finds in the databases and in the
answers that callers were given, or an answer that is wrong by itself. See docs/planted-bugs.md.
"""
