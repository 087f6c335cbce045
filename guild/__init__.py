"""What to learn next: skills, their problems and answers, quests made of them, recipes for heroes."""
