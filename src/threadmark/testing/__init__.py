"""Test doubles and the store conformance kit: public, documented, used by Threadmark's own tests."""
