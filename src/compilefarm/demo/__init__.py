"""The demonstration: a farm on one machine builds a real project, and shows what happened.

farm.py is the story, project.py what is built, timeline.py the picture, children.py how programs
are started and ended. All of it uses the programs as a user would, by their command lines, so
that it shows nothing that a user could not do.
"""
