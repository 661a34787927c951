"""How Carillon is set up and run: launchers and files, no product code. No service imports anything from here."""
