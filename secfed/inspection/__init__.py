"""What is in data sets and what is wrong with them, before anything is prepared or trained. A site runs this."""
