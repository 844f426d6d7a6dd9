"""Keeps a checkout healthy: plan, doctor, garbage collection, backup."""
