"""From a calibrated parameter to a projection for 2100: how much carbon dioxide will the land leave in the air?

    python examples/emergent_constraint.py

Booth et al. (2012, Environmental Research Letters 7, 024002) ran a climate model with carbon cycle 16 times, with other land
parameters each. What they disagree in by 2100 follows the temperature T_opt at which photosynthesis is best: the warmer it may
get, the more carbon is taken up, and the less the concentration rises. Calibrating the land model on fluxes with adJULES (Raoult
et al. 2016, Geoscientific Model Development 9, 2833) gave T_opt = 35.392 +- 0.922 degC. The one constrains the other.

The 16 points and T_opt are those that come with adJULES (github.com/NRaoult/adJULES, folder Emergent_constraint:
FigurePanelF_2012paper.txt, read off a figure of Booth et al., and MAIN_EC_basic.py).
"""

import landcal_jax as lc

# Optimum temperature of photosynthesis [degC], and change of CO2 from 1900 to 2100 [ppm], run by run.
RUNS = (
    (31.0000, 589.773), (33.6667, 597.978), (36.3333, 373.826), (35.6667, 392.767), (27.6667, 616.082), (31.6667, 599.082),
    (27.0000, 817.798), (29.0000, 845.664), (29.6667, 720.893), (33.0000, 492.605), (32.3333, 616.539), (37.0000, 534.170),
    (34.3333, 506.310), (28.3333, 742.913), (30.3333, 573.196), (35.0000, 581.707))

# The posterior of the parameter. One of your own: draws = posterior.theta()["..."][:, pft]; draws.mean(), draws.std().
MEAN, SD = 35.392, 0.922

if __name__ == "__main__":
    temperature, change = zip(*RUNS, strict=True)
    found = lc.emergent_constraint(temperature, change, MEAN, SD)
    print(f"{len(RUNS)} runs: {found.slope:.1f} ppm per degC, r = {found.correlation:.2f}, scatter {found.residual_sd:.1f} ppm")
    print(f"change of CO2, all runs alike:              {found.prior_mean:.0f} +- {found.prior_sd:.0f} ppm")
    print(f"change of CO2, at {MEAN} +- {SD} degC: {found.mean:.0f} +- {found.sd:.0f} ppm")
    # How much of that is the parameter, and how much the runs that do not lie on a line.
    exact = lc.emergent_constraint(temperature, change, MEAN, 0.0)
    print(f"if the temperature were known exactly:      {exact.mean:.0f} +- {exact.sd:.0f} ppm")
