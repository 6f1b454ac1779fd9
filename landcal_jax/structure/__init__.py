"""What is wrong with a calibrated model: it is tested against its own assumptions (`examine`), and what is missing is named.

`examination` has the report as a whole, `signals` the candidate causes (what acts on the model in `drivers`, how it is made to vary in
`expansions`) and `score_tests` their tests; signs that something is wrong are in `checks`, `predictive`, `parameters` and `subsets`;
`figures` and `page` show it.
"""

from landcal_jax.structure.examination import Findings as Findings
from landcal_jax.structure.examination import examine as examine
from landcal_jax.structure.findings import Finding as Finding
from landcal_jax.structure.signals import Candidate as Candidate
