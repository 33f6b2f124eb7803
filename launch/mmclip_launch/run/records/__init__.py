"""The files of one line a step or a figure: ledger, metrics, alarms, skipped steps."""
