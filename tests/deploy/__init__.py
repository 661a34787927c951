"""The files that say how Carillon is run: checked as they are, without running them."""
