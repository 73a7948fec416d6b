from gearhorn.standalone.child import StandaloneError as StandaloneError
from gearhorn.testing.calling import Outcome as Outcome
from gearhorn.testing.calling import acall as acall
from gearhorn.testing.calling import call as call
from gearhorn.testing.recording import Recording as Recording
from gearhorn.testing.recording import Sent as Sent
from gearhorn.testing.recording import record as record
from gearhorn.testing.servers import Aio as Aio
from gearhorn.testing.servers import Standalone as Standalone
from gearhorn.testing.servers import standalone as standalone

__all__: list[str]
