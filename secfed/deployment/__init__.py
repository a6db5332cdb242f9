"""The two sides of a real federation: Flower's SuperLink and SuperNodes, started, watched and fenced in."""
