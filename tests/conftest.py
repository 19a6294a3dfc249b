"""What every test can ask for."""

pytest_plugins = [
    "tests.support.embedded",
    "tests.support.postgres",
    "tests.support.databases",
]
