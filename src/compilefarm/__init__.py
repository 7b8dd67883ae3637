"""A compile farm for people who already use distcc.

host-server knows every CPU in the farm and gives each compile the one on which it should finish
first; distcc does the compiling.
"""

__version__ = "0.1.0"
