"""Commands of `mirage`: the options of each and the function that runs it."""
