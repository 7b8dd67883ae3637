"""Which compilers a host has: their ids, and the doors through which distccd runs them."""
