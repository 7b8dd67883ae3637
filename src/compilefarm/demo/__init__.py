"""The demonstration: a farm on one machine builds a real project, and shows what happened.

main.py is the story: it starts the farm (farm.py), builds a project (project.py) and draws the
picture (timeline.py). local_compiles.py finds compiles that did not run on the farm. children.py
starts and ends programs. It runs the programs by their command lines, so it shows nothing that a
user could not do.
"""
