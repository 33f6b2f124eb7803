"""What is said of each class: templates or texts of its own, names and synonyms, by language, each with its source."""
