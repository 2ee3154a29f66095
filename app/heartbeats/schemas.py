"""What the provider's heartbeat is answered."""

from typing import Final

from app.heartbeats.endpoint import PATH, PROBLEMS
from app.http.schemas import Described, Operation, Reply, record, text

HEARTBEATS: Final = Described(
    operations={
        f"POST {PATH}{{token}}": Operation(
            summary="The provider's heartbeat",
            tags=("heartbeats",),
            description="For the provider alone: the address is minted for one session. Any other is the same "
            "empty 404, whatever the method.",
            answers={
                204: Reply(description="The heartbeat is on disk."),
                404: Reply(description="The address is none of ours; nothing is revealed."),
            },
            only_problems=PROBLEMS,
            parameters={"token": text("v1.…", "Minted for one session.")},
            open=True,
            body=record(
                {"session_id": text("01a20bdc-ff66-78f9-8da4-0a5fcaa04e0e", "The provider's id.", longest=200)},
                open_to_more=True,
                description="All else in it is kept.",
            ),
        ),
    }
)
