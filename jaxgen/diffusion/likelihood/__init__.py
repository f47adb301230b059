"""Likelihoods: the exact one by the probability-flow ODE, that of quantised data, and the bound in continuous time.

Equations without an L are in `jaxgen.diffusion`. All likelihoods are in nats per example.
`jaxgen.evaluation.likelihood` converts them to bits per dimension, nats / (D ln 2), for people to read.

**The ODE.** Divided by n, x_t of any schedule becomes variance-preserving, and the ODE (17), or (18), has no poles at
either end of t:

    (L1)  z = x_t / n = cos(phi) x_0 + sin(phi) eps,    n = sqrt(alpha^2 + sigma^2),  tan(phi) = sigma / alpha
          dz / dphi = cos(phi) eps - sin(phi) x_0
    (L2)  dz / du = sin(phi) (cos(phi) eps - sin(phi) x_0),    u = log tan(phi / 2) = -asinh(alpha / sigma)

(L1)'s right side is v, (6); with y = z / cos(phi) and r = tan(phi) it is (18). For little noise u is log(r / 2), so
that equal steps in u resolve fine structure like equal steps in log-SNR. u is 0 where alpha = 0, so that rectified flow
and zero terminal SNR are integrated up to T itself, where the prior is exact. Along the ODE, solved from the data to T
(Chen et al. 2018, https://arxiv.org/abs/1806.07366, Theorem 1; Song et al. 2021, https://arxiv.org/abs/2011.13456,
Appendix D.2),

    (L3)  log p(x_s) = log p(x_T) + D log(n_T / n_s) + int_{u_s}^{u_T} tr(J) du,    J = d(dz / du) / dz

where p(x_T) is by default the prior N(0, prior_std^2 I). The trace is a sum of vector-Jacobian products, each at the
cost of the network's backward pass, over all basis vectors ("exact") or a few random ones ("hutchinson", Grathwohl et
al. 2019, https://arxiv.org/abs/1810.01367; unbiased for log p, not for p):

    (L4)  tr(J) = sum_i e_i^T J e_i = E[v^T J v],   E[v v^T] = I

**Where the density is taken.** The density is that of x_s at s = t_min > 0, evaluated at the data x, which is neither
scaled by alpha_s nor noised, as in Song et al.'s code. It is the density of samples of an ODE that stops at t_min. For
Gaussian x_0 in 6 dimensions, with means from -0.9 to 0.9 and standard deviations from 0.005 to 0.7, and a perfect
network, the table has the nats per dimension by which the mean of log p(x_0) is lower than under the data's density:
because t_min is not 0, and because the prior is not q(x_T):

                                    t_min     prior
    vp()                          0.07488   0.00002
    vp(t_min=1e-5)                0.00006   0.00001
    sub_vp()                      0.00001   0.00002
    ve()                          0.06940   0.00008
    edm()                         0.00088   0.00003
    rectified_flow()              0.00272   0.00000
    rectified_flow(t_min=1e-5)    0.00000   0.00000
    continuous_cosine()           0.00109   0.00000
    linear()                      0.06938   0.00002
    cosine()                      0.02974   0.00000
    geometric()                   0.06939   0.19912

`tests/diffusion/test_likelihood.py` measures it. t_min costs nats only if the data has structure as fine as sigma /
alpha at t_min.

**Quantised data.** Let x_0 have `levels` values per dimension. A density p of real x gives x_0 the probability of its
bin, of width w in each dimension: P(x_0) = int_bin p(x) dx. Uniform noise in the bin gives a bound (Theis et al. 2016,
https://arxiv.org/abs/1511.01844, section 3.1), and K importance-weighted draws a tighter one (Burda et al. 2016,
https://arxiv.org/abs/1509.00519; Hoogeboom et al. 2020, https://arxiv.org/abs/2001.11235). With x_k uniform in the bin,

    (L5)  -log P(x_0) <= -E[log p(x_1)] - D log w
    (L6)  -log P(x_0) <= -E[log 1/K sum_{k=1..K} p(x_k)] - D log w,    falling in K, to -log P

The bins depend on the data that the model was trained on; see `Bins`.

**The continuous-time bound** (Kingma et al. 2021, https://arxiv.org/abs/2107.00630, eq. 11 and 17; Song et al. 2021,
https://arxiv.org/abs/2101.09258), with s = t_min:

    (L7)  -log p(x_0) <= KL(q(x_T | x_0) || p(x_T)) - E[log p(x_0 | x_s)] + int_s^T w E||eps - eps_hat||^2 dt
    (L8)  w = -log_snr' / 2,    w ||eps - eps_hat||^2 dt = cos(phi) ||v - v_hat||^2 du,    v as in (L1)

where hats mark the network's predictions. The form on the right has no poles; t is drawn uniformly in u.
"""

from jaxgen.diffusion.likelihood.bound import continuous_bound
from jaxgen.diffusion.likelihood.integrators import INTEGRATORS, Integrator, IntegratorName, dopri5, heun, rk4
from jaxgen.diffusion.likelihood.ode import Bins, bin_of, encode, log_likelihood, ode_nll
from jaxgen.diffusion.likelihood.traces import TRACES, Trace, TraceName, exact, hutchinson
