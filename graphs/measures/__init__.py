"""How good a circuit is: faithfulness and its relatives, curves over the size, hypothesis tests."""
