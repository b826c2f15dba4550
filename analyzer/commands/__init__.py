"""The analyzer's commands, by what one wants: to compare policies, to choose one, to see what was."""
