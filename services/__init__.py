"""The services of Carillon, one package each."""
