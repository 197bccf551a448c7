from .loop import Job as Job
from .loop import Recipe as Recipe
from .loop import replay as replay
from .loop import roll_out as roll_out
from .plan import RolloutPlan as RolloutPlan
from .policy_names import RandomPolicy as RandomPolicy
from .policy_names import make_policy as make_policy
from .runner import run_plan as run_plan
