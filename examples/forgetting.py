"""Taking one's data along, and being forgotten to the last byte. Runs without a key.

python examples/forgetting.py
"""

import json
import tempfile
from pathlib import Path

from threadmark import Memory

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "chat.db"
    with Memory(f"sqlite:///{path}") as memory:
        for user in ("ana", "bob"):
            memory.resource(user).thread("notes").save_sync(
                [f"I am {user}.", f"The secret of {user} is kept."]
            )

        ana = memory.resource("ana")
        archive = ana.export_sync()
        print("taken along:", len(json.dumps(archive)), "characters of JSON")

        receipt = ana.erase_sync()
        print("erased:", dict(receipt.removed), "- scrubbed:", receipt.scrubbed)
        print("left:", memory.admin.resources_sync())

    content = path.read_bytes()
    print("in the file: ana", b"secret of ana" in content, "- bob", b"secret of bob" in content)
