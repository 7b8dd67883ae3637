"""Whether the owner of this machine is present: watch-ssaver and its sources."""
