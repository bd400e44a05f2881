"""`unisd eval`: what a model can do, what it would know with the teacher's view, and what it still does as before."""
