"""What ended compiles teach: the cost of each file, host speeds, and like directories."""
