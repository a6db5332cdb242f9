def derivations(p): return {}
