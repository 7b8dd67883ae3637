"""The default policy: each compile goes to the slot on which it finishes first."""
