"""The ReMedE benchmark: cards, labels, splits, attrition."""
