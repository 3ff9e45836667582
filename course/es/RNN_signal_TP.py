"""
Trabajo práctico: pronosticar una señal
=======================================

El segundo cuaderno de la clase: una serie real, qué hay que ganarle, una red que aprende a decir el mes que viene, y
qué le pasa al gradiente cuando la red se alimenta de sus propios pronósticos. La serie es la temperatura del mar frente
a Perú, mes a mes, de 1950 a 2010: la de El Niño. Viene con statsmodels y es de dominio público.

Hace falta ``pip install ".[lab,data]" notebook``. Hay un ejercicio que ``grade`` corrige y dos preguntas, con las
respuestas ocultas.
"""

# %%
# La serie
# --------
# Se corta en el tiempo: el último quinto es de prueba y no se toca hasta el final; de lo anterior, el último décimo es
# de validación, y el resto entrena. La media y el desvío con que se normaliza salen sólo de la parte que entrena: si
# salieran de toda la serie, el futuro se filtraría en el pasado.

import matplotlib.pyplot as plt
import numpy as np

from rnn_numpy import Adam, Forecaster, clip_grad_norm
from rnn_numpy.checks import grade
from rnn_numpy.lab import horizon_gradients
from rnn_numpy.models import Rollout, forecast
from rnn_numpy.tasks import SplitSeries, autoregressions, baselines, load_series, rolling_origins, score

series = load_series("elnino")
split = SplitSeries.of(series)
print(series)
print(f"n = {split.train} + {split.known - split.train} + {len(split) - split.known}")

figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
ax.plot(series.times, series.values[:, 0], color="#0072B2", linewidth=0.8)
for place in (split.train, split.known):
    ax.axvline(series.times[place], color="#D55E00", linestyle="--", linewidth=1.2)
ax.set(xlabel="t", ylabel="°C", xlim=(series.times[0], series.times[-1]))
figure.savefig("RNN_signal_TP_series.png", dpi=110)

# %%
# En la figura, las dos rayas separan entrenamiento, validación y prueba. El ciclo del año es casi todo; lo que queda,
# los años cálidos y fríos, es lo difícil.
#
# Lo que hay que ganarle
# ----------------------
# Ningún error dice nada por sí solo. Tres pronósticos sin red, a 1 y a 12 meses: repetir el último valor; repetir el
# del mismo mes del año anterior; y una autorregresión, que es lineal, por cuadrados mínimos, cuyo orden p elige la
# validación:
#
# ::
#
#     y_t = c + w_1 y_{t-1} + ... + w_p y_{t-p}
#
# El RMSE está en desvíos de la serie. El MASE divide el error absoluto medio por el de repetir el año anterior; debajo
# de 1, se le gana. Cada mes de la prueba se pronostica una vez a cada distancia.

H = 12
origins, mask = rolling_origins(split.known, len(split), H)
models = autoregressions(split)
p = models[0].order
names = ("y[t-1]", "y[t-12]", f"AR({p})")
forecasts = dict(zip(names, baselines(split, models, origins, H).values(), strict=True))


def show(name):
    found = score(split, forecasts[name], origins, mask)
    h_1, *_, h_12 = found.by_horizon
    print(f"{name:12}{h_1:9.3f}{h_12:9.3f}{found.rmse:9.3f}{found.seasonal_mase:9.3f}")


print(f"{'':12}{'h = 1':>9}{'h = 12':>9}{'RMSE':>9}{'MASE':>9}")
for name in names:
    show(name)

# %%
# La red
# ------
# Una GRU de 16 unidades y una lectura lineal: de cada paso sale el pronóstico del siguiente (many-to-many). Se entrena
# con ventanas de 36 meses de la parte de entrenamiento; el objetivo de cada paso es el mes que sigue, o sea que la
# entrada siempre es la verdadera (teacher forcing). El lazo es el de siempre: pérdida y gradientes, recorte, un paso de
# Adam, cuya tasa baja hasta 0. A 12 meses se llega alimentando la red con sus propios pronósticos.
#
# Una sola semilla no dice nada de un método; se muestran tres.

T = 36


def windows(rng, ahead):
    ends = rng.integers(T, split.train - ahead, size=16, endpoint=True)
    x, target = split.windows(ends, T, ahead)
    return x, target


def trained(seed):
    model, rng = Forecaster(1, 16, cell="gru", rng=seed), np.random.default_rng(seed)
    optimizer = Adam(model.params, lr=1e-2)
    for update in range(250):
        optimizer.lr = 1e-2 * (1 - update / 250)
        x, target = windows(rng, 1)
        loss, grads, _ = model.loss_and_grads(x, target[:, :, 0])
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
    return model


def foretold(model):
    return split.levels(forecast(model, split.contexts(origins, T), H), origins)


nets = {seed: trained(seed) for seed in range(3)}
for seed, net in nets.items():
    forecasts[f"GRU {seed}"] = foretold(net)
    show(f"GRU {seed}")

# %%
# A un mes, las tres le ganan a la autorregresión, por poco; a doce, no. La autorregresión es un rival serio: hay que
# ponerla siempre.
#
# Ejercicio: la GRU entera, hacia atrás
# -------------------------------------
# La celda que se entrenó arriba. ``h`` es (T+1, N, H), con el estado inicial en la fila 0, y ``gates`` (T, N, 4 H)
# guarda r, z, n y q = W_hn h_{t-1} + b_hn de cada paso.


def my_gru(doutput, dh_n, x, h, gates, W_ih, W_hh):
    dx, dW_ih, dW_hh = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh)
    db_ih, db_hh = np.zeros(len(W_ih)), np.zeros(len(W_hh))
    dh = dh_n
    for t in reversed(range(len(x))):
        r, z, n, q = np.split(gates[t], 4, axis=1)
        ...
    return dx, dh, dW_ih, dW_hh, db_ih, db_hh


print(grade(my_gru, "gru_backward", lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solución</summary>
#
# ::
#
#     def my_gru(doutput, dh_n, x, h, gates, W_ih, W_hh):
#         dx, dW_ih, dW_hh = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh)
#         db_ih, db_hh = np.zeros(len(W_ih)), np.zeros(len(W_hh))
#         dh = dh_n
#         for t in reversed(range(len(x))):
#             r, z, n, q = np.split(gates[t], 4, axis=1)
#             dh = dh + doutput[t]
#             da_z = dh * (h[t] - n) * z * (1 - z)
#             da_n = dh * (1 - z) * (1 - n**2)
#             da_r = da_n * q * r * (1 - r)
#             da_ih = np.concatenate([da_r, da_z, da_n], axis=1)
#             da_hh = np.concatenate([da_r, da_z, da_n * r], axis=1)
#             dx[t] = da_ih @ W_ih
#             dW_ih += da_ih.T @ x[t]
#             dW_hh += da_hh.T @ h[t]
#             db_ih += da_ih.sum(axis=0)
#             db_hh += da_hh.sum(axis=0)
#             dh = dh * z + da_hh @ W_hh
#         return dx, dh, dW_ih, dW_hh, db_ih, db_hh
#
# .. raw:: html
#
#     </details>
#
# El gradiente de lo que se pronostica solo
# -----------------------------------------
# A partir del último dato, la red lee lo que ella misma dijo: y_k es la entrada del paso siguiente. Eso abre un segundo
# camino para el gradiente, al lado del estado. Para una RNN simple con lectura V:
#
# ::
#
#     dh_k/dh_{k-1} = diag(1 - h_k^2) (W_hh + W_ih V)      por el estado, y por lo que se pronosticó
#
# ``horizon_gradients`` separa los dos caminos: la norma de dL_h/dW, donde L_h es la pérdida a h pasos; la parte que va
# sólo por los estados; y la que va por los pronósticos. A un paso no hay nada que se realimente; después, casi todo va
# por los pronósticos. Entrenar con teacher forcing no ve nunca esa parte.

x, target = split.windows(range(T, split.train - H, 30), T, H)
ahead = np.ascontiguousarray(target[-1].swapaxes(0, 1))  # (H, N, 1)
found = horizon_gradients(Rollout(nets[0]), x, ahead)
print(f"{'|dL_h/dW|':12}" + "".join(f"{f'h = {h}':>9}" for h in (1, 2, 3, 6, 12)))
for kind, name in (("exact", "W_hh + W_ih V"), ("recurrence", "W_hh"), ("feedback", "W_ih V")):
    print(f"{name:14}" + "".join(f"{found.norms(kind)[h - 1]:9.3f}" for h in (1, 2, 3, 6, 12))[2:])

# %%
# ¿Sirve ese gradiente? Las mismas redes siguen 60 actualizaciones más, ahora con la pérdida de los 12 meses
# pronosticados solas: con el gradiente exacto (``free``), y cortándolo en cada pronóstico (``stop``), como si lo
# pronosticado fuera un dato.


def refined(net, mode):
    model = Forecaster(1, 16, cell="gru", rng=0)
    model.params.flat[:] = net.params.flat
    rollout, optimizer, rng = Rollout(model, mode), Adam(model.params, lr=3e-3), np.random.default_rng(3)
    for update in range(60):
        optimizer.lr = 3e-3 * (1 - update / 60)
        x, target = windows(rng, H)
        loss, grads, _ = rollout.loss_and_grads(x, np.ascontiguousarray(target[-1].swapaxes(0, 1)))
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
    return model


print(f"{'':12}{'h = 1':>9}{'h = 12':>9}{'RMSE':>9}{'MASE':>9}")
for mode in ("free", "stop"):
    for seed, net in nets.items():
        forecasts[f"GRU {seed} {mode}"] = foretold(refined(net, mode))
        show(f"GRU {seed} {mode}")

# %%
# Con el gradiente exacto las tres mejoran en el conjunto de los doce meses; cortándolo, dos empeoran. Es poco, y la
# prueba es una sola: con más semillas se puede estar más seguro.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
start = int(np.flatnonzero(origins == len(split) - 3 * H)[0])
place = origins[start]
ticks = np.arange(1, H + 1)
looks = {
    names[1]: ("0.45", ":", "s"),
    names[2]: ("#E69F00", "--", "^"),
    "GRU 0": ("#56B4E9", "-.", "v"),
    "GRU 0 free": ("#0072B2", "-", "o"),
}
right.plot(range(-H + 1, H + 1), series.values[place - H : place + H, 0], color="black", label="y[t]")
for name, (colour, style, marker) in looks.items():
    look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 4, "label": name}
    left.plot(ticks, score(split, forecasts[name], origins, mask).by_horizon, **look)
    right.plot(ticks, forecasts[name][:, start, 0], **look)
left.set(xlabel="h", ylabel="RMSE", ylim=(0, None))
right.set(xlabel="h", ylabel="°C")
right.axvline(0.5, color="0.8")
right.legend(frameon=False, fontsize=9)
figure.savefig("RNN_signal_TP_forecasts.png", dpi=110)

# %%
# En la figura, a la izquierda el error según la distancia h, y a la derecha un año de la prueba, pronosticado al
# empezar; los colores son los mismos.
#
# Dos preguntas. Primera: la parte de validación no se usó para elegir nada de la GRU. ¿Para qué serviría, y por qué no
# alcanza con mirar la de prueba?
#
# .. raw:: html
#
#     <details><summary>Respuesta</summary>
#     <p>Para elegir cuándo parar, cuántas unidades y qué semilla. Lo que se elige mirando la prueba queda ajustado a
#     ella: su error deja de decir cómo le va a la red con datos que no vio.</p></details>
#
# Segunda: ¿por qué a un mes ``free`` y ``stop`` tienen el mismo gradiente, y por qué a doce no?
#
# .. raw:: html
#
#     <details><summary>Respuesta</summary>
#     <p>A un paso la red todavía no leyó nada que ella haya dicho. A doce, cada pronóstico es la entrada del
#     siguiente, y el gradiente exacto también le enseña a cada pronóstico qué errores provoca después; cortado,
#     no.</p></details>
#
# El cuaderno siguiente es RNN_enc_dec: codificador, decodificador y atención.
