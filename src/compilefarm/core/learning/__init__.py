"""What finished compiles teach: file costs, host speeds, and what a build will ask for."""
