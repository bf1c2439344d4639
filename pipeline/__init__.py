"""How stages become a run: recipe, plan, ledger, Ray runner, command line, report."""
