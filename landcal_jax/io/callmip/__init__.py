"""The output files of CalLMIP Phase 1: their specification and writer (`output`), and the validator."""
